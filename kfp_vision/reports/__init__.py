"""What a run tells people: HTML pages, charts, results, and the message at its end."""
