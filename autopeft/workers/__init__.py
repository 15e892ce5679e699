"""Everything that touches a model: tasks, data, injection, training, memory, executors."""
