"""How the shipped weights are made. Nothing a robot needs is here."""
