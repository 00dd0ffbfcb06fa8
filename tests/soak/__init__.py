"""A worker at half of its capacity for half an hour, in a group that rebalances all the time: nothing may grow."""
