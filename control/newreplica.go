package control

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/intramesh/mesh/internal/atomicfile"
)

// replicaFiles are what all control planes of a mesh have in common, below their directories. The root's key is
// not among them: it is not needed to run.
func replicaFiles(from string) ([]string, error) {
	files := []string{gossipKeyFile, bundleKeyFile, sealKeyFile, adminDir + "/ca.crt", adminDir + "/ca.key"}
	err := fs.WalkDir(os.DirFS(from), caDir, func(path string, d fs.DirEntry, err error) error {
		if root, _ := filepath.Match(caDir+"/root*.key", path); err == nil && d.Type().IsRegular() && !root {
			files = append(files, path)
		}
		return err
	})
	return files, err
}

// NewReplica makes dir, which must not exist or be empty, the directory of another control plane on the store of the one in
// from: with its keys, except the root's, and its settings, except those given. Move it to the
// other machine as what it is, a secret.
func NewReplica(from, dir string, advertise string, listen Listen) (err error) {
	s, err := loadSettings(from)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if s.Store == "" {
		return fmt.Errorf("control: the store of %s is a file, which one control plane at a time can have: replicas share an etcd (mesh snapshot moves what is there)", from)
	}
	s.Advertise, s.Listen = advertise, listen
	s = s.withDefaults()
	if err := s.check(); err != nil {
		return fmt.Errorf("control: %w", err)
	}
	if err := emptyDir(dir); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("control: %w", err), empty(dir))
		}
	}()
	files, err := replicaFiles(from)
	if err != nil {
		return err
	}
	for _, f := range files {
		if err := copyFile(filepath.Join(from, f), filepath.Join(dir, f)); err != nil {
			return err
		}
	}
	return s.write(dir)
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := atomicfile.MkdirAll(filepath.Dir(to)); err != nil {
		return err
	}
	return atomicfile.Write(to, data, info.Mode().Perm())
}
