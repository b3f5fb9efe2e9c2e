"""What is kept between syncs: last good lists, generations, the hold, what is retired later."""
