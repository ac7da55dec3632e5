package attacks

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net"
	"strings"
)

// Types of TLS records (RFC 8446, section 5.1).
const (
	recordAlert       = 21
	recordHandshake   = 22
	recordApplication = 23
)

// records writes the records of an established TLS 1.3 connection one by one, which no TLS library lets one do. The handshake
// is crypto/tls's, which must have written nothing since.
type records struct {
	net.Conn
	secret []byte
	seq    uint64
	aead   cipher.AEAD
	iv     []byte
}

var errOtherSuite = errors.New("the cipher suite is not TLS_AES_128_GCM_SHA256")

// newRecords takes over what one side of t sends; label is that of its secret in keys, the key log of t.
func newRecords(t *tls.Conn, keys *bytes.Buffer, label string) (*records, error) {
	if t.ConnectionState().CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return nil, errOtherSuite
	}
	for line := range strings.Lines(keys.String()) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == label {
			secret, err := hex.DecodeString(f[2])
			if err != nil {
				return nil, err
			}
			r := &records{Conn: t.NetConn()}
			return r, r.rekey(secret)
		}
	}
	return nil, errors.New("the key log has no " + label)
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func expand(secret []byte, label string, n int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(n))
	info = append(append(info, byte(len(label))), label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), n)
}

func (r *records) rekey(secret []byte) error {
	key, err := expand(secret, "key", 16)
	if err != nil {
		return err
	}
	if r.iv, err = expand(secret, "iv", 12); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	r.secret, r.seq = secret, 0
	r.aead, err = cipher.NewGCM(block)
	return err
}

// record sends one record of any type and length.
func (r *records) record(typ byte, payload []byte) error {
	nonce := bytes.Clone(r.iv)
	for i := range 8 {
		nonce[4+i] ^= byte(r.seq >> (56 - 8*i))
	}
	r.seq++
	inner := append(bytes.Clone(payload), typ)
	header := binary.BigEndian.AppendUint16([]byte{recordApplication, 3, 3}, uint16(len(inner)+r.aead.Overhead()))
	_, err := r.Write(r.aead.Seal(header, nonce, inner, header))
	return err
}

// keyUpdate changes the keys, and may ask the other side to do so too (RFC 8446, section 4.6.3).
func (r *records) keyUpdate(answer bool) error {
	msg := []byte{24, 0, 0, 1, 0}
	if answer {
		msg[4] = 1
	}
	if err := r.record(recordHandshake, msg); err != nil {
		return err
	}
	next, err := expand(r.secret, "traffic upd", 32)
	if err != nil {
		return err
	}
	return r.rekey(next)
}
