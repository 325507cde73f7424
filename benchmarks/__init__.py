"""Time and memory of attention statistics, beside what else can compute them."""
