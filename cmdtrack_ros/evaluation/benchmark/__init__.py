"""How fast the tracker is, beside the trackers that a user could take instead and beside what the machine can do."""
