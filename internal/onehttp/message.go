package onehttp

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

var errMalformed = errors.New("not what HTTP/1.1 says")

// A head is the first line of a message, and what its header says about the body (RFC 9112, section 6).
type head struct {
	line    string
	length  int64 // of the body; -1 when the header doesn't say
	chunked bool
	last    bool // the connection ends with this message
}

// readHead reads as far as the empty line. Of two headers that contradict each other none is believed: a message with them has no
// length that both sides agree on.
func readHead(in *bufio.Reader) (h head, err error) {
	h.length = -1
	if h.line, err = readLine(in); err != nil {
		return h, err
	}
	for {
		line, err := readLine(in)
		if err != nil || line == "" {
			return h, unexpected(err)
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || name == "" || strings.ContainsAny(name, " \t") { // a line that goes on from the one before is obsolete
			return h, fmt.Errorf("%w: the header line %.64q", errMalformed, line)
		}
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "content-length":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil || h.chunked || h.length >= 0 && h.length != int64(n) {
				return h, fmt.Errorf("%w: the length %.64q", errMalformed, value)
			}
			h.length = int64(n)
		case "transfer-encoding":
			if strings.ToLower(value) != "chunked" || h.chunked || h.length >= 0 {
				return h, fmt.Errorf("%w: the transfer encoding %.64q", errMalformed, value)
			}
			h.chunked = true
		case "connection":
			h.last = h.last || strings.Contains(strings.ToLower(value), "close")
		}
	}
}

// readLine returns a line without its end, of what in's buffer holds at most.
func readLine(in *bufio.Reader) (string, error) {
	b, err := in.ReadSlice('\n')
	if err != nil {
		return "", err
	}
	return strings.TrimSuffix(string(b[:len(b)-1]), "\r"), nil
}

// status reads the first line of a response.
func (h *head) status() (int, error) {
	version, rest, _ := strings.Cut(h.line, " ")
	code, _, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(code, 10, 16)
	if err != nil || len(code) != 3 || n < 100 || version != "HTTP/1.1" && (version != "HTTP/1.0" || h.chunked) {
		return 0, fmt.Errorf("%w: the answer %.64q", errMalformed, h.line)
	}
	h.last = h.last || version == "HTTP/1.0"
	return int(n), nil
}

// body reads the body that belongs to h. When the header says nothing of one it is all that comes.
func (h *head) body(in *bufio.Reader, limit int64) ([]byte, error) {
	switch {
	case h.chunked:
		return readChunks(in, limit)
	case h.length > limit:
		return nil, tooLarge(limit)
	case h.length >= 0:
		b := make([]byte, h.length)
		_, err := io.ReadFull(in, b)
		return b, err
	}
	h.last = true
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = tooLarge(limit)
	}
	return b, err
}

// readChunks reads a body in chunks, and the trailer behind it (RFC 9112, section 7.1).
func readChunks(in *bufio.Reader, limit int64) (body []byte, err error) {
	for {
		line, err := readLine(in)
		if err != nil {
			return nil, err
		}
		size, _, _ := strings.Cut(line, ";") // an extension
		n, err := strconv.ParseUint(strings.TrimRight(size, " \t"), 16, 63)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: the chunk %.64q", errMalformed, line)
		case n == 0:
			for line = "-"; line != "" && err == nil; {
				line, err = readLine(in)
			}
			return body, err
		case int64(n) > limit-int64(len(body)):
			return nil, tooLarge(limit)
		}
		was := len(body)
		body = append(body, make([]byte, n)...)
		if _, err = io.ReadFull(in, body[was:]); err == nil {
			line, err = readLine(in)
		}
		switch {
		case err != nil:
			return nil, err
		case line != "":
			return nil, fmt.Errorf("%w: a chunk is longer than it says", errMalformed)
		}
	}
}

func tooLarge(limit int64) error {
	return fmt.Errorf("%w: larger than %d bytes", ErrTooLarge, limit)
}

// unexpected is for an end where something was due.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
