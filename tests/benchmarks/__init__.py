"""What the speed claims rest on: each benchmark measures both ways in one process and prints the ratio."""
