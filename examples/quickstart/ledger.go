package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/intramesh/mesh"
)

// The ledger stands for any protocol that is neither HTTP nor gRPC. The client sends lines of text; the
// server appends each to its ledger and answers "INSTANCE CALLER". It knows net.Conn and nothing else.

func (p *payments) serveLedger(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		go p.keepLedger(conn)
	}
}

func (p *payments) keepLedger(conn net.Conn) {
	defer conn.Close()
	peer, _ := mesh.PeerFromConn(conn)
	lines := bufio.NewScanner(conn) // refuses lines above 64 KiB
	for lines.Scan() {
		if _, err := fmt.Fprintf(conn, "%s %s\n", p.instance, peer.ID); err != nil {
			return
		}
	}
}

// appendLine writes one line to a ledger and returns the receipt.
func appendLine(conn net.Conn, answers *bufio.Reader, text string) (receipt, error) {
	if _, err := io.WriteString(conn, text+"\n"); err != nil {
		return receipt{}, err
	}
	line, err := answers.ReadString('\n')
	if err != nil {
		return receipt{}, err
	}
	instance, caller, ok := strings.Cut(strings.TrimSpace(line), " ")
	if !ok {
		return receipt{}, errors.New("the ledger talks nonsense")
	}
	return receipt{instance, caller}, nil
}
