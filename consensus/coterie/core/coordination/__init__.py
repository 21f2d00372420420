"""What skills and clients coordinate by: locks, keys with values, topics, schedules. Pure, like all of the
core."""
