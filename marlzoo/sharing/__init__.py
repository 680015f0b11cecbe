"""Publishing policies and datasets in repositories of a Hugging Face hub, and getting them from there."""
