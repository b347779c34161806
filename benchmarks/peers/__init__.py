"""Other libraries' DDPG and TD3: a Python of their own, and the script that trains in it."""
