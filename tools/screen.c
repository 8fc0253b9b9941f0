/* The screen: see screen.h. The text is kept, so that keys can scroll it between two looks. */
#include "tools/screen.h"

#ifdef MQB_NCURSES

#include <errno.h>
#include <locale.h>
#include <ncurses.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tools/interrupt.h"

static char *shown;
static int first_line, first_column;
static SCREEN *terminal;

bool screen_open(void)
{
    if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
        return false;
    setlocale(LC_CTYPE, "");
    terminal =
        newterm(NULL, stdout, stdin); /* initscr() would exit on a terminal that it does not know */
    if (terminal == NULL)
        return false;
    cbreak();
    noecho();
    nodelay(stdscr, TRUE);
    keypad(stdscr, TRUE);
    curs_set(0);
    return true;
}

void screen_close(void)
{
    if (terminal == NULL)
        return;
    endwin();
    delscreen(terminal);
    terminal = NULL;
    free(shown);
    shown = NULL;
}

/* Bytes of the first `columns` characters of a line. */
static size_t bytes_of(const char *line, size_t size, int columns)
{
    size_t i = 0;

    for (; i < size; i++)
        if (((unsigned char)line[i] & 0xc0) != 0x80 && columns-- == 0)
            break;
    return i;
}

static void draw(void)
{
    const char *line = shown;
    int n = 0;

    erase();
    while (line != NULL && *line != '\0') {
        size_t size = strcspn(line, "\n");
        size_t skipped = bytes_of(line, size, first_column);

        if (n >= first_line && n - first_line < LINES)
            mvaddnstr(n - first_line, 0, line + skipped,
                      (int)bytes_of(line + skipped, size - skipped, COLS));
        n++;
        line += size + (line[size] == '\n');
    }
    if (first_line >= n && first_line > 0)
        first_line = n > 0 ? n - 1 : 0;
    refresh();
}

void screen_show(const char *text)
{
    free(shown);
    shown = strdup(text);
    draw();
}

static bool press(int key)
{
    switch (key) {
    case 'q':
        return false;
    case KEY_UP:
    case 'k':
        first_line -= first_line > 0;
        break;
    case KEY_DOWN:
    case 'j':
        first_line++;
        break;
    case KEY_PPAGE:
        first_line = first_line > LINES ? first_line - LINES : 0;
        break;
    case KEY_NPAGE:
    case ' ':
        first_line += LINES;
        break;
    case KEY_LEFT:
        first_column = first_column > 8 ? first_column - 8 : 0;
        break;
    case KEY_RIGHT:
        first_column += 8;
        break;
    case KEY_HOME:
        first_line = first_column = 0;
        break;
    }
    draw();
    return true;
}

static long milliseconds_now(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

bool screen_wait(int milliseconds)
{
    long until = milliseconds_now() + milliseconds;

    for (;;) {
        struct pollfd fd = {.fd = STDIN_FILENO, .events = POLLIN};
        long left = until - milliseconds_now();
        int key, r;

        while ((key = getch()) != ERR)
            if (!press(key))
                return false;
        if (left <= 0)
            return true;
        r = interrupt_poll(&fd, 1, (int)left);
        if (r < 0 || (fd.revents & POLLHUP) != 0)
            return false;
    }
}

#else

bool screen_open(void)
{
    return false;
}

void screen_close(void) {}

void screen_show(const char *text)
{
    (void)text;
}

bool screen_wait(int milliseconds)
{
    (void)milliseconds;
    return false;
}

#endif
