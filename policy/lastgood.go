package policy

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/intramesh/mesh/internal/atomicfile"
	"github.com/intramesh/mesh/internal/wire"
)

const lastGoodFile = "bundle"

// load enforces the last good bundle, if there is one. Only a directory that can't be
// had is an error: with a bundle that can't be read, the member denies until it gets another.
func (s *Syncer) load() error {
	if s.cfg.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("policy: directory of the last good rules: %w", err)
	}
	name := filepath.Join(s.cfg.Dir, lastGoodFile)
	data, err := readBounded(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var b *Bundle
	if err == nil {
		b, err = Open(data, s.cfg.Keys, s.cfg.TrustDomain)
	}
	var e *Engine
	if err == nil {
		e, err = Compile(b)
	}
	if err != nil {
		s.log.Error("the last good rules are unusable; everything is denied until others arrive", "file", name, "error", err)
		return nil
	}
	s.enforce(e, data)
	s.log.Info("rules in force from disk", "version", b.Version, "documents", len(b.Documents), "issued", b.Issued)
	return nil
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, wire.MaxBundleBytes+1))
}

// save keeps a bundle for the next start. A disk that does not take it must not keep new rules
// from being enforced, so failing is only logged.
func (s *Syncer) save(data []byte) {
	if s.cfg.Dir == "" {
		return
	}
	name := filepath.Join(s.cfg.Dir, lastGoodFile)
	if err := atomicfile.Write(name, data, 0o600); err != nil {
		s.log.Error("the rules could not be kept on disk; a restart would begin with older ones", "file", name, "error", err)
	}
}
