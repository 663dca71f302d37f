"""What clients send, what a right answer is, and how many clients there are when. Needs nothing but Python, so that
Locust's image can hold it alone."""
