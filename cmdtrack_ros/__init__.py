"""cmdtrack_ros: one target followed through RGB plus thermal, depth or event images, in ROS 2 and outside it."""

from pkgutil import extend_path

# The generated messages install as a second `cmdtrack_ros` package; merging the paths makes
# `cmdtrack_ros.msg` importable beside this source tree.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
