"""The ROS 2 side: all that imports rclpy, but for the demo."""
