"""Everything that touches a model: tasks, data, injection, training, memory, executors."""

from autopeft.workers.noise import hide_harmless_messages

# Before anything here imports PEFT: it imports bitsandbytes, which then says the first of them.
hide_harmless_messages()
