"""Other libraries' DDPG and TD3: the command that trains them, and the script it starts in a Python of their own."""
