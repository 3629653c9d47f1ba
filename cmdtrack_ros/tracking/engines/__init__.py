"""What runs the network: one contract, and an engine for each runtime. The robot's path imports only the one in use."""
