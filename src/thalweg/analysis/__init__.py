"""What directions have to do with each other, with layers and with the sample of data."""
