"""The commands as Python functions with the same options. The command line parses, calls these and prints."""
