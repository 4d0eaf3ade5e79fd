one
two two