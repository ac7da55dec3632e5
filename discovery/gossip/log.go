package gossip

import (
	"context"
	"log" //nolint:depguard // memberlist takes no other logger
	"log/slog"
	"net"
	"strings"
)

// listLogger returns a logger for memberlist, which writes lines such as
// "[WARN] memberlist: text". Most of what it calls an error is a peer that does not answer.
func listLogger(to *slog.Logger) *log.Logger {
	return log.New(listWriter{to}, "", 0)
}

type listWriter struct{ to *slog.Logger }

func (w listWriter) Write(b []byte) (int, error) {
	const longest = 512
	line := strings.TrimSpace(string(b[:min(len(b), longest)]))
	level := slog.LevelInfo
	if rest, ok := strings.CutPrefix(line, "["); ok {
		tag, text, _ := strings.Cut(rest, "] ")
		line = text
		switch tag {
		case "DEBUG":
			return len(b), nil
		case "INFO":
			level = slog.LevelDebug
		case "ERR", "ERROR":
			level = slog.LevelWarn
		}
	}
	line = strings.TrimPrefix(line, "memberlist: ")
	if strings.HasPrefix(line, "Binding to public address without encryption") {
		return len(b), nil // it is encrypted below memberlist
	}
	if strings.HasSuffix(line, net.ErrClosed.Error()) {
		return len(b), nil // what it still tries while we close
	}
	w.to.Log(context.Background(), level, "gossip: memberlist", "says", line)
	return len(b), nil
}
