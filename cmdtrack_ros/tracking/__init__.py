"""A network and a box -> boxes over time. `tracker`, `engine` and `pipeline` need torch, the others do not."""
