"""Will this market be unusually volatile in the next 60 seconds? An honest pipeline that answers."""
