"""How good a tracker is: baselines, protocols, metrics, result files and reports.

Nothing here imports rclpy.
"""
