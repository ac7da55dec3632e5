package policy

// ReadJSON reads the JSON values of a file, one after the other, as trees that know their places. It is for
// inputs that are not documents; those go through [Parse]. The name is the file's, for errors, which are a
// [*ParseError].
func ReadJSON(name string, data []byte) ([]*Node, error) { return readJSON(name, data) }
