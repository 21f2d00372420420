"""Locks, keys, topics and schedules, as clients and skills use them."""
