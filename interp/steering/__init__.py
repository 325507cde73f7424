"""What interventions share: settings, places in a prompt, what a method needs, a report of what it did."""
