"""What Treehead promises about its speed, measured: one program for each row of the table in README.md."""
