package policy

// A NodeKind says what a [Node] is. The kinds are JSON's.
type NodeKind uint8

// The kinds of a [Node]. The zero kind is null.
const (
	NodeNull NodeKind = iota
	NodeBool
	NodeNumber
	NodeString
	NodeList
	NodeObject
)

// String returns "null", "bool", "number", "string", "list" or "object".
func (k NodeKind) String() string {
	switch k {
	case NodeNull:
		return "null"
	case NodeBool:
		return "bool"
	case NodeNumber:
		return "number"
	case NodeString:
		return "string"
	case NodeList:
		return "list"
	case NodeObject:
		return "object"
	}
	return "invalid"
}

// A Node is a value in a text file, and where it stands there. It lets a reader of another
// format (YAML, say) hand its files to [Decode], which then points at the line that is wrong.
//
// A reader keeps what it reads as it stands: duplicate keys stay, in order, for Decode to refuse. It
// refuses by itself what a Node can't express, such as aliases and tags.
type Node struct {
	Kind NodeKind
	// Value is the text of a scalar: of a string its content, of a number or bool its
	// JSON spelling ("8080", "true").
	Value string
	// Items are the elements of a list.
	Items []*Node
	// Members are the fields of an object, in the order of the file.
	Members []Member
	// Line and Column, from 1, are where the value starts; Column counts bytes. Zero is
	// unknown.
	Line, Column int
}

// A Member is one field of an object [Node].
type Member struct {
	Key string
	// Line and Column are where the key starts, as in [Node].
	Line, Column int
	Value        *Node
}
