"""Training and evaluation of learners, offline and online."""
