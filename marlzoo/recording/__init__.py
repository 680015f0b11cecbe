"""Recording datasets: collection, recipes, and training of behavior policies."""
