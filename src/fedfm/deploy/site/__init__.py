"""A party: its process, its policy, and what it writes down of what leaves."""
