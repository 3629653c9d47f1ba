"""A network and a box -> boxes over time. Torch is imported only where it runs the network."""
