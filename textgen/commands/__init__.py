"""What the commands of the command line do; textgen.cli has their options."""
