"""Code generated from protos/treehead/v1 by `make proto`. Do not edit."""
