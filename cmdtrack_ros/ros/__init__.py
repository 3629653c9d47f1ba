"""The ROS 2 side: everything that imports rclpy. `pairing`, `images` and `pipeline` import without it."""
