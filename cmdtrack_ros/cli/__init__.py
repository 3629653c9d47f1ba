"""`cmdtrack <verb>`: everything a user starts by hand.

Verbs import what they need when they run, so that `--help` is quick and works without ROS or torch.
"""
