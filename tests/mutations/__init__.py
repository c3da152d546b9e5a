"""Mutation run: every format that is read, damaged in thousands of ways, through every command that reads it."""
