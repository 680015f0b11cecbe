"""World models: ensembles that predict what a team's step leads to, and training on what they predict."""
