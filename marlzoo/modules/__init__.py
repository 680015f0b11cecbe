"""Building blocks of learners: layers, actors, critics, mixers, distributions and policies."""
