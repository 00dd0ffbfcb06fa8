"""Fuzzing of everything that reads bytes which others wrote: one oracle a target, driven in two ways."""
