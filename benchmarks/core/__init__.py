"""What one record costs in the core, without broker, model and network: microseconds and instructions."""
