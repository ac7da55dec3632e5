package ca_test

import (
	"testing"

	"github.com/intramesh/mesh/control/internal/etcdtest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	etcdtest.Main()
	// glog, below smallstep's badger, starts it when it is linked in.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/golang/glog.(*fileSink).flushDaemon"))
}
