"""Networks, and the files their weights live in. Nothing here knows about time, cameras or ROS."""
