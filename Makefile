# Every target does its own set-up. Needs only Python 3.10 to 3.13 with pip, a C++ compiler, CMake and make.
#   make demo                     track a face in a video that a package carries, and leave out/demo/
#   make demo SEQUENCE=path       the same with any sequence folder
#   make tour                     one recording per modality, targets by box, click and detector: look at out/tour/index.html
#   make test                     all tests;  make test ARGS="-k pairing -x"  passes options on to pytest
#   make test CMDTRACK_ROS_EXTRAS=prefix  beside what scripts/real_ros.py built there
#   make faults                   attack the running node, write out/faults.json;  make faults ARGS="--only silent"  a part
#   make check                    what is to be said of the code without running it: lint, format, types
#   make format                   put it in that format
#   make setup PYTHON=python3.12  only the set-up, with a Python of your choice
PYTHON ?= python3
SEQUENCE ?=
ARGS ?=
CMDTRACK_ROS_EXTRAS ?=

# A sourced apt ROS 2 must not leak its modules into the virtual environment.
unexport PYTHONPATH AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH

.PHONY: help setup demo tour test faults check format clean
.DEFAULT_GOAL := help

help:
	@sed -n '2,10s/^# *//p' Makefile
	@echo "make clean                    remove what was built and written, .venv included"

setup:
	@$(PYTHON) scripts/setup_env.py

demo: setup
	.venv/bin/cmdtrack demo --output out/demo $(if $(SEQUENCE),--sequence "$(SEQUENCE)")

tour: setup
	.venv/bin/cmdtrack tour --output out/tour

# Training in a process of its own: after all the others in one process, the heap is found damaged there
# (malloc crashes while a test waits for its child); which native library does it is not known yet.
test: setup
ifeq ($(strip $(ARGS)),)
	$(if $(CMDTRACK_ROS_EXTRAS),. $(abspath $(CMDTRACK_ROS_EXTRAS))/local_setup.sh && ).venv/bin/python -m pytest --ignore=test/training
	$(if $(CMDTRACK_ROS_EXTRAS),. $(abspath $(CMDTRACK_ROS_EXTRAS))/local_setup.sh && ).venv/bin/python -m pytest test/training
else
	$(if $(CMDTRACK_ROS_EXTRAS),. $(abspath $(CMDTRACK_ROS_EXTRAS))/local_setup.sh && ).venv/bin/python -m pytest $(ARGS)
endif

faults: setup
	PYTHONPATH=test .venv/bin/python -m faults --output out/faults.json $(ARGS)

check: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/hadolint docker/Dockerfile

format: setup
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv build install log out *.egg-info .mypy_cache .ruff_cache
