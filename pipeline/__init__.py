"""The batch job: Apache Beam, files and the commands around the samplers of `model`."""
