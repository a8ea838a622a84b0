"""Small dense problems of the Gramian rules, in numpy float64 and free of scale: one file per problem."""
