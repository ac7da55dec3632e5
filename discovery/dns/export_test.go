package dns

import (
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// ParseServers is parseServers.
var ParseServers = parseServers

// Parse reads a message as an answer about a name's type, and its ID to the question.
func Parse(id uint16, name string, typ uint16, msg []byte) (string, error) {
	n, err := dnsmessage.NewName(name)
	if err != nil {
		return "", err
	}
	m := query{id, dnsmessage.Question{Name: n, Type: dnsmessage.Type(typ), Class: dnsmessage.ClassINET}}
	a, err := m.parse(msg)
	if err != nil {
		return "", err
	}
	var all []string
	for _, ip := range a.addrs {
		all = append(all, ip.String())
	}
	for _, s := range a.srv {
		all = append(all, s.Target.String())
	}
	return strings.Join(all, " "), nil
}
