"""What a run would cost: parameters, operations, disk, memory."""
