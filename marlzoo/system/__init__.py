"""Files, machine, network and safe deserialization."""
